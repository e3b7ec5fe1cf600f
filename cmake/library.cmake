# libfastconv: saved plans behind a C interface, without Python and without the ONNX scanner.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# What a C linker is not told: the C++ runtime of the compiler used here (libstdc++ or libc++), and libm.
set(runtime ${CMAKE_CXX_IMPLICIT_LINK_LIBRARIES})
list(FILTER runtime INCLUDE REGEX "^(stdc\\+\\+|c\\+\\+|c\\+\\+abi|m)$")
list(REMOVE_DUPLICATES runtime)
list(TRANSFORM runtime PREPEND "-l" OUTPUT_VARIABLE runtime_flags)
list(JOIN runtime_flags " " runtime_flags)

set(library_sources ${plan_sources} ${dispatch_sources} csrc/capi.cpp)
list(FILTER library_sources EXCLUDE REGEX "plan_write.cpp|select.cpp|cost.cpp")
foreach(kind static shared)
  string(TOUPPER ${kind} KIND)
  add_library(fastconv_${kind} ${KIND} ${library_sources} ${level_objects})
  add_library(fastconv::${kind} ALIAS fastconv_${kind})
  set_target_properties(fastconv_${kind} PROPERTIES OUTPUT_NAME fastconv EXPORT_NAME ${kind} VISIBILITY_INLINES_HIDDEN ON
                        VERSION ${fastconv_version} SOVERSION 0 PUBLIC_HEADER include/fastconv.h)
  target_compile_definitions(fastconv_${kind} PRIVATE ${level_definitions} FASTCONV_VERSION="${fastconv_version}")
  target_compile_options(fastconv_${kind} PRIVATE -Os -ffunction-sections -fdata-sections)  # kernels keep their own flags
  target_include_directories(fastconv_${kind} PRIVATE csrc PUBLIC $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include>
                             $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_link_libraries(fastconv_${kind} PUBLIC Threads::Threads)
endforeach()
target_link_options(fastconv_static INTERFACE -Wl,--gc-sections)
target_link_libraries(fastconv_static INTERFACE "$<$<LINK_LANGUAGE:C>:${runtime}>")
target_link_options(fastconv_shared PRIVATE -Wl,--gc-sections
                    -Wl,--version-script=${CMAKE_CURRENT_SOURCE_DIR}/cmake/fastconv.map)
set_target_properties(fastconv_shared PROPERTIES LINK_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cmake/fastconv.map)

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/fastconv)
set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME library)
install(TARGETS fastconv_static fastconv_shared EXPORT fastconvTargets)
install(EXPORT fastconvTargets NAMESPACE fastconv:: DESTINATION ${package_folder})
configure_package_config_file(cmake/fastconvConfig.cmake.in fastconvConfig.cmake INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(fastconvConfigVersion.cmake VERSION ${fastconv_version} COMPATIBILITY SameMinorVersion)
configure_file(cmake/fastconv.pc.in fastconv.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/fastconvConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/fastconvConfigVersion.cmake
        DESTINATION ${package_folder})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/fastconv.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
